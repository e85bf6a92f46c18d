"""Passwords of the clusters that Flux manages: in git, encrypted with SOPS for age keys.

``flux/clusters/name/secrets`` holds one encrypted Secret in a file and a kustomization.yaml that
lists them; ``.sops.yaml`` says who may read them. A stamp over the files is the fact
``credentials`` of the cluster: with a new one, the migrations run again and the services roll.
MariaDB, the receiver and the services each take two passwords, so no order of events in a rotation
refuses anybody, and ``git revert`` is as safe. How all is used says docs/gitops.md.
"""
