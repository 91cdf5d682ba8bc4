"""What tests of several kinds share: engines on a segment, daemons in labs, programs that help.

Imported as `tests.support.*`, from the root of the repository. It holds no tests, and nothing here
imports a test module.
"""
