"""Passwords of the clusters that Flux manages: in git, encrypted with SOPS for age keys.

``make secrets CLUSTER=name`` makes what is missing and brings the rest in line.
``flux/clusters/name/secrets`` holds one encrypted Secret in a file and a kustomization.yaml that
lists them; ``.sops.yaml`` says who may read them; the private key is in
``~/.config/facestack/name.agekey`` and never in the repository. A stamp over the files is the fact
``credentials`` of the cluster: with a new one, the migrations run again and the services roll.

- **Make.** A random value for each key that the credentials Job would make, so that Job finds them.
  Where a cluster runs already, ``CONTEXT=`` takes over the values that it has.
- **Rotate.** ``ROTATE=database-receiver`` (several with commas, ``database`` for those of the
  services) gives a new password and keeps the old one as ``previous-password``. MariaDB takes both,
  services try both, so no order of events refuses anybody, and ``git revert`` is as safe.
- **Finish.** ``FINISH=1`` takes the previous passwords away, once Flux says that the last layer is
  Ready with the stamp. Until then a second rotation of the same Secret is refused, for it would
  take away the password that some pods still have.
- **Re-encrypt.** Files whose recipients are not those of ``.sops.yaml`` get a new data key, for
  the recipients there. Who was taken away keeps what he has read: rotate, too.

What can be rotated without a failed request:

==================  ==================================================================
database-*          yes: two passwords at a time
mariadb-admin       yes, in the same way: the migrations change it; services do not have it
administrator-key,  yes: the receiver takes both
frontend-key
webhook             yes: what comes before the git host is told is fetched a minute later
object-store        no: versitygw takes one key at a time, read at its start; ``OUTAGE=1``
==================  ==================================================================

On AWS the passwords are in Secrets Manager, and only Flux's own are here.
"""
