"""The wire: protocol-neutral requests, and transports for gRPC and HTTP.

Why the transports are written here instead of wrapping tritonclient's clients (read in
tritonclient 2.51.0, the oldest version supported, and 2.73.0):

* One Transport protocol for gRPC and HTTP, synchronous and asynchronous. tritonclient
  has four clients with differing methods and result types, and no type annotations.
* HTTP without extra event loops. tritonclient.http needs gevent and geventhttpclient,
  tritonclient.http.aio needs aiohttp; httpcore serves both kinds of client.
* One tree of errors. tritonclient's gRPC clients raise one exception class for all
  failures, with the status as text; its HTTP clients pass on the exceptions of gevent
  and aiohttp.
* Many requests at once on one gRPC stream. tritonclient allows one stream a client and
  one callback a stream, and its stream methods are not thread-safe.

From tritonclient the client takes what Triton itself defines: the generated gRPC stubs
and messages, and the conversion of data types.
"""
