"""The control socket: JSON lines over a Unix stream socket.

Holds its server (`server`), its client (`client`), what both know (`protocol`), and long answers in
slices (`slices`). Must not know what is asked: whoever starts the server gives it the functions
that answer. Start reading in `protocol`.
"""
