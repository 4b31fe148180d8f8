"""Start the page: a private folder for uploads and samples, the model, Gradio behind the gate, until it is stopped."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.errors import UsageError, install_hint
from omnisift.ui.request_filter import RequestFilter
from omnisift.ui.samples import write_samples

if TYPE_CHECKING:
    from omnisift.ui.session import Session

LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine for itself."""
_SETTINGS = {
    "GRADIO_TEMP_DIR": "",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_ALLOWED_PATHS": "",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
}


def check_installed() -> None:
    """Raise `UsageError` without Gradio."""
    if find_spec("gradio") is None:
        raise UsageError("omnisift ui needs gradio, which is not installed: " + install_hint("ui"))


def check_address(host: str, port: int) -> None:
    """Raise `UsageError` if the port is taken, or the address is none of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"can't listen at {host}:{port} ({why}); choose another --host or --port") from error


@contextmanager
def room() -> Iterator[Path]:
    """An empty folder for uploads and samples, and what Gradio must find in the environment; both are gone afterwards.

    Enter it before Gradio is loaded: nothing is reported to its makers, nothing is shared, no other folder is served.
    """
    before = {name: os.environ.get(name) for name in _SETTINGS}
    with tempfile.TemporaryDirectory(prefix="omnisift-ui-") as folder:
        os.environ |= {**_SETTINGS, "GRADIO_TEMP_DIR": folder}
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def launch(
    desks: Mapping[str, Session], folder: Path, *, host: str, port: int, most_mb: int, ready: Callable[[str], None]
) -> Any:
    """Serve the page without waiting, ``desks`` by the name of their model; ``ready`` is told its address.

    Returns Gradio's page, which has ``close()``.
    """
    from starlette.middleware import Middleware

    from omnisift.ui.page import build, style, theme

    samples = folder / "samples"
    samples.mkdir()
    page = build(desks, write_samples(samples))
    page.queue(max_size=32)
    hosts = (*LOCAL, host) if host in LOCAL else None
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_file_size=f"{most_mb}mb",
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(RequestFilter, hosts=hosts)]},
        theme=theme(),
        css=style(),
    )
    ready(address)
    return page
