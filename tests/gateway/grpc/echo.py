"""A gRPC server and client of all four kinds of calls, without generated code: messages are bytes.

    python3 echo.py UPSTREAM GATEWAY
"""

import sys
from concurrent import futures

import grpc

upstream, gateway = sys.argv[1:3]


def join(messages, _):
    return b"".join(messages)


def split(message, _):
    for byte in message:
        yield bytes([byte])


def both(messages, _):
    yield from messages


def slow(_, context):
    context.add_callback(lambda: None)
    import time

    time.sleep(5)
    return b""


handlers = {
    "One": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Split": grpc.unary_stream_rpc_method_handler(split),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
assert server.add_insecure_port(upstream), upstream
server.start()

channel = grpc.insecure_channel(gateway, options=[("grpc.enable_retries", 0)])
assert channel.unary_unary("/echo.Echo/One")(b"one", timeout=20) == b"one"
assert channel.stream_unary("/echo.Echo/Join")(iter([b"a", b"b"]), timeout=20) == b"ab"
assert list(channel.unary_stream("/echo.Echo/Split")(b"xyz", timeout=20)) == [b"x", b"y", b"z"]
answers = channel.stream_stream("/echo.Echo/Both")(iter([b"1", b"2", b"3"]), timeout=20)
assert list(answers) == [b"1", b"2", b"3"]


def code(method, timeout):
    try:
        channel.unary_unary(method)(b"x", timeout=timeout)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


assert code("/no.Such/One", 20) == "UNIMPLEMENTED"
assert code("/few.Few/One", 20) == "UNIMPLEMENTED", "the service does not know it"
assert code("/few.Few/One", 20) == "RESOURCE_EXHAUSTED"
assert code("/echo.Echo/Slow", 0.5) == "DEADLINE_EXCEEDED"
print("fine")
server.stop(0)
