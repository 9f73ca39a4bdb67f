"""A port for programs that use a proxy: Python's HTTP client fetches a page through two proxies and an exit.

curl and browsers can use the same port: `curl -x socks5h://127.0.0.1:PORT http://…`.
"""

import http.client
import http.server
import threading

from tunnel import LocalNetwork
from tunnel.client import SocksServer
from tunnel.services import Exit, Services


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"hello from the web server; you came from port {self.client_address[1]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


service = Services({}, exit=Exit(["allow 127.0.0.0/8 1024-65535"]))
with (
    http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as web,
    LocalNetwork(peers=4, service=service) as net,
):
    threading.Thread(target=web.serve_forever).start()
    alice, exit_node = net[0], net[3]
    port = SocksServer(alice, exit_node.id, port=0, hops=2)
    serving = net.submit(port.serve())

    assert isinstance(port.address, tuple)  # it is no Unix socket
    host, number = port.address
    client = http.client.HTTPConnection(host, number, timeout=60)
    client.set_tunnel("localhost", web.server_port)  # CONNECT; the exit looks up the name
    client.request("GET", "/")
    print(client.getresponse().read().decode(), end="")
    client.close()

    serving.cancel()
    web.shutdown()
