"""Shared memory between client and server: segments, and the pool that reuses them.

Why this is written here instead of using tritonclient.utils.shared_memory and
tritonclient.utils.cuda_shared_memory (read in tritonclient 2.51.0, the oldest version
supported, and 2.73.0):

* tritonclient 2.51.0 needs pkg_resources, which current setuptools does not contain,
  and a C library for system memory. 2.73.0 uses multiprocessing.shared_memory, which
  starts a second process, the resource tracker. In both, the file stays in /dev/shm
  until the region is destroyed. Here it is removed as soon as the server has mapped
  it, so a killed client leaves none.
* It creates and fills segments. It does not reuse them, does not register them again
  with a restarted server, does not remove what killed clients left registered, and
  does not fall back to the wire. These rules are the pool's work.
"""
