"""What the pages show: pictures, faces and people in words, and where a box is drawn.

What the receiver answers is read into :class:`documents.ReceiverDocument`, each named as the
receiver calls it.
"""
