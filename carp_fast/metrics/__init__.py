"""Metrics for Prometheus, and a page: how they are asked for over HTTP, what they are, their text.

Holds the listener (`listener`, `connection`, `exchange`, `negotiation`), the families of metrics
that are made of what was measured (`families`, `measured`, `collector`), the text with a line for
each virtual host (`virtual_hosts`), and the page's file and streams (`page`, `streams`). Must not
know the pump or where a figure comes from: the daemon measures. Start reading in `measured.py`.
"""
