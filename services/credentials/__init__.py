"""Makes the Secrets that are not there yet, and certificates, which it renews.

``python -m services.credentials NAME=KEY[,KEY] ...``: each key gets a random value. A Secret that
exists is left alone and never read, so running it again changes nothing.

``python -m services.credentials.issuing NAME ...`` makes the certificates of services by these
names, and those anew that end soon.
"""
