"""A ping-pong server that is not Rust: the service of ping_pong.proto with reflection, on Google's gRPC library.

Usage: python ping_pong.py DESCRIPTOR_SET. The port is printed once it listens.
"""

import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection


def load(path):
    pool = descriptor_pool.DescriptorPool()
    with open(path, "rb") as file:
        files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    for file in files.file:
        pool.Add(file)
    return pool


def main():
    pool = load(sys.argv[1])
    message = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    request, ball = message("demo.v1.SubscribeRequest"), message("demo.v1.Ball")
    cancelled = threading.Event()

    def subscribe(wanted, context):
        if wanted.topic == "refuse":
            context.abort(grpc.StatusCode.NOT_FOUND, "the ball is lost")
        for number in range(1, wanted.count + 1):
            yield ball(id=number, event="ping", text="x" * wanted.bytes)
        if wanted.topic == "fail":
            context.abort(grpc.StatusCode.DATA_LOSS, "the ball is lost")
        if wanted.topic == "silent":
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait()
            print("cancelled", flush=True)

    def echo(wanted, context):
        tenant = dict(context.invocation_metadata()).get("tenant", "")
        context.send_initial_metadata((("court", "centre"),))
        return ball(id=wanted.count, event=wanted.topic, text=f"tenant={tenant}")

    handlers = {
        "Subscribe": grpc.unary_stream_rpc_method_handler(
            subscribe, request_deserializer=request.FromString, response_serializer=ball.SerializeToString
        ),
        "Echo": grpc.unary_unary_rpc_method_handler(
            echo, request_deserializer=request.FromString, response_serializer=ball.SerializeToString
        ),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.v1.Events", handlers),))
    reflection.enable_server_reflection(("demo.v1.Events", reflection.SERVICE_NAME), server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listens on {port}.", flush=True)
    server.wait_for_termination()


main()
