"""OmniSIFT inside other people's tools, each through the door that it leaves open; one package a tool."""
