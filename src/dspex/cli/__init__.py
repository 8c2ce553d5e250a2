"""The command line: ``dspex fit``, ``eval``, ``predict``, ``info``, ``bench`` and ``demo``."""
