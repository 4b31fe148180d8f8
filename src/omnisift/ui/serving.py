"""Serve the page: a private folder for uploads and samples, and Gradio behind the request filter."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.errors import UsageError, install_hint
from omnisift.ui.known_hosts import KnownHosts
from omnisift.ui.live_routes import LiveRoutes
from omnisift.ui.live_sessions import LiveSessions
from omnisift.ui.request_filter import RequestFilter
from omnisift.ui.samples import write_samples
from omnisift.ui.uploads import MEGABYTE, Uploads

if TYPE_CHECKING:
    from omnisift.ui.session import Session

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
    """Import Gradio, which reads its settings from the environment: call it inside `private_folder`.

    Raises:
        UsageError: Gradio or one of its dependencies cannot be imported.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        missing = f"cannot be imported ({error})" if error.name != "gradio" else "is not installed"
        raise UsageError(f"omnisift ui needs gradio, which {missing}: {install_hint('ui')}") from error


def check_address(host: str, port: int) -> None:
    """Check that a server can listen at this address.

    Raises:
        UsageError: the port is taken, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot listen at {host}:{port} ({reason}); choose another --host or --port") from error


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder for uploads and samples, with Gradio's settings in the environment; both are removed on exit.

    Enter it before Gradio is imported. The settings switch off telemetry, share links and access to other folders.
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
    sessions: Mapping[str, Session],
    folder: Path,
    *,
    host: str,
    port: int,
    allow_hosts: Collection[str],
    max_upload_mb: int,
    upload_space_mb: int,
    live: LiveSessions,
    on_ready: Callable[[str], None],
) -> Any:
    """Start the server in the background.

    Args:
        sessions: name of a model -> its session.
        folder: where samples are written, below the folder of uploads.
        host: address to listen at.
        port: port to listen at.
        allow_hosts: further host names under which the page may be requested.
        max_upload_mb: maximum size of an uploaded clip in megabytes.
        upload_space_mb: maximum size of all uploads in megabytes; the oldest make room for new ones.
        live: the live sessions of the server; the caller closes them.
        on_ready: called with the page's URL.

    Returns:
        Gradio's page, whose ``close()`` stops the server.
    """
    from starlette.middleware import Middleware

    from omnisift.ui.page import SCRIPT, build, style, theme

    samples = folder / "samples"
    samples.mkdir()
    page = build(sessions, write_samples(samples))
    page.queue(max_size=32)
    uploads = Uploads(folder, max_upload_mb * MEGABYTE, upload_space_mb * MEGABYTE)
    checks = {"hosts": KnownHosts.of(host, allow_hosts), "uploads": uploads, "live": LiveRoutes(live)}
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_file_size=f"{max_upload_mb}mb",
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(RequestFilter, **checks)]},
        theme=theme(),
        css=style(),
        head=SCRIPT,
    )
    on_ready(address)
    return page
