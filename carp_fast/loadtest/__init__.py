"""Load tests: floods of frames, the sink that counts what arrives, and trials with both ends.

Holds the sending end (`sender`), the receiving end (`receiver`), the search for the highest rate
(`trial`), and many well-behaved virtual hosts at once (`masters`). Must not know the commands that
start them, nor how results are printed.
Start reading in `sender`.
"""
