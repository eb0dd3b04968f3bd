"""On the path of a command's own processes: their pools fork, where nnU-Net's would import it anew.

Python imports a module of this name before anything else.
"""

import multiprocessing

_fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: _fork
