"""The control socket: JSON lines over a Unix stream socket.

Holds the classes of requests and answers (`documents`, `explanations`), its server (`server`), the
file of the socket (`socket_file`), its clients (`client`), what both ends share (`protocol`), long
answers in slices (`slices`), and lines of JSON (`encoding`). Must not know how an answer is made:
the daemon gives the server its handlers. Start reading in `documents`.
"""
