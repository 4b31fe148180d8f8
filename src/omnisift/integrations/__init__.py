"""OmniSIFT inside other tools, through the plugin interface of each; one package per tool."""
