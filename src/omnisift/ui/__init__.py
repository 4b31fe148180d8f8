"""`omnisift ui`: a local page to try a model on a clip (docs/ui.md).

What it does lies in `desk`, `shelf`, `samples` and `show`, without a web framework; `page` puts it on a page of
Gradio's, `gate` stands between that page and the network, and `serving` starts both.
"""
