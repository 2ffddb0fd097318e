"""`mapjob browse`: page through a selection in a browser, from a server that only this machine can reach."""

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from typer import Option

from mapjob.cli.options import Run
from mapjob.report.browse import page_html
from mapjob.report.pages import Filter, Pages
from mapjob.store.run_folder import open_run

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"


def browse(
    run: Run,
    against: Annotated[str | None, Option(metavar="RUN", help="Another run, to compare ranks with.")] = None,
    port: Annotated[int, Option(min=0, max=65535, help="0: any free port.")] = 0,
) -> None:
    """Page through a selection by rank, group or disagreement, and search it. Ctrl-C ends it.

    Example: mapjob browse runs/demo --against runs/demo/runs/<run id>
    """
    pages = Pages(open_run(run))
    other = Pages(open_run(against)) if against else None
    with server(pages, other, port) as listening:
        log.info(f"http://{LOOPBACK}:{listening.server_port}/ (Ctrl-C ends it)")
        listening.serve_forever()


def server(pages: Pages, other: Pages | None, port: int) -> ThreadingHTTPServer:
    """An HTTP server on the loopback address, not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # DNS rebinding: a website can point its own name at this address; its requests then carry that name.
            host = (self.headers.get("Host") or "").partition(":")[0]
            url = urlsplit(self.path)
            if host not in (LOOPBACK, "localhost") or url.path != "/":
                self.send_error(404)
                return
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            page = query.get("page", "1")
            by = Filter(query.get("group"), query.get("labels"), query.get("text"))
            body = page_html(pages, by, int(page) if page.isdecimal() else 1, other).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # searches are private

    return ThreadingHTTPServer((LOOPBACK, port), Handler)
