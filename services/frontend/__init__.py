"""The web pages: pictures with their faces and names, uploads, people."""
