"""The receiver's API, the decoding of pictures, and the pages themselves."""
