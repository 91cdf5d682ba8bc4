"""Load tests: floods of frames, the sink that counts what arrives, and trials with both ends.

Holds what is sent, how fast and which way (`sender`), what came of it (`receiver`), the search for
the highest rate (`trial`), and many well-behaved virtual hosts at once (`masters`). Must not know
the commands that start them, nor what a table of theirs looks like.
Start reading in `sender`.
"""
