"""Renders every overlay and checks what comes out, without a cluster."""
