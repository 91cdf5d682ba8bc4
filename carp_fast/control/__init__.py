"""The control socket: JSON lines over a Unix stream socket.

Holds what is asked and answered (`documents`), its server (`server`), its clients (`client`), what
both ends know (`protocol`), and long answers in slices (`slices`). Must not know how an answer is
made: whoever starts the server gives it the functions that answer. Start reading in `documents`.
"""
