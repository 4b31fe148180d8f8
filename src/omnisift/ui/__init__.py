"""`omnisift ui`: a local page to try a model on a clip. Only `page` and `serving` need Gradio."""
