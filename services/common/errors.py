"""The tree of errors that pass from module to module; every service hangs its own below it.

AwayError                            not now: the same call may work later
├── DatabaseUnavailableError         away, full, read-only, or busy beyond its limits
│   └── DatabaseConflictError        the transaction lost to another one: run it again
├── ObjectStoreUnavailableError      no answer, no permission, no space
├── DoorbellUnavailableError         the queue did not take it
├── RecogniserError                  face_recog gave no answer
│   ├── RecogniserUnavailableError   nobody there: a fault of the service, the picture was not tried
│   ├── RecogniserTimeoutError       no answer in time: a fault of the service
│   ├── RecogniserBusyError          its queue is full, or it stops: another one may do it
│   └── RecogniserFailedError        this picture's recognition failed, for example its worker died
├── StoredFacesError                 people did not look for stored faces
│   ├── StoredFacesAwayError         nobody there, no answer in time, or they are still being loaded
│   ├── StoredFacesBusyError         too many searches wait already
│   └── OtherEngineError             they are of another engine still: soon they are not
└── NotYetError (jobs)               what a program that runs once needs is not there yet

RefusedError                         no, and asking again gives the same answer
├── ObjectNotFoundError              no object has this key
├── ObjectTooLargeError              it has more bytes than the caller takes
├── ObjectRefusedError               the store takes no such key
├── ClaimLostError                   a claim is over: somebody else works on it
├── InvalidPathError (object_keys)   a path that no picture can have
├── InvalidNameError (person_names)  a name that no person can have
├── PictureError (picture_files)     a file that is no picture, is damaged or too large
└── XmpError (picture_files)         a file whose XMP cannot be read

``ObjectStoreError`` is any of the object store's. Each driver's errors are translated where that
driver is called: :mod:`database`, :mod:`objects`, :mod:`nsqd`, :mod:`facerecog`. Whatever is in
neither branch is a bug, and handled where all bugs are: at the top.
"""

from typing import ClassVar


class AwayError(Exception):
    """A service cannot do it now; the same call may work later."""

    service: ClassVar[str] = "another service"
    """Which one, for people."""


class RefusedError(Exception):
    """No: the content or the caller is at fault, or it is over; asking again changes nothing."""


class DatabaseUnavailableError(AwayError):
    """The database cannot do it now; the same call may work later."""

    service = "database"


class DatabaseConflictError(DatabaseUnavailableError):
    """The transaction lost to another one, in a deadlock or by waiting: run it again."""


class ObjectStoreError(Exception):
    """The store did not do what was asked."""


class ObjectNotFoundError(ObjectStoreError, RefusedError):
    """No object has this key."""


class ObjectTooLargeError(ObjectStoreError, RefusedError):
    """The object has more bytes than the caller takes."""


class ObjectRefusedError(ObjectStoreError, RefusedError):
    """The store takes no such key; asking again changes nothing."""


class ClaimLostError(RefusedError):
    """The claim is over, by time or by a change: whoever had it may not write any more."""


class ObjectStoreUnavailableError(ObjectStoreError, AwayError):
    """The store did not answer, lets nobody in or has no space; the same call may work later."""

    service = "object store"


class DoorbellUnavailableError(AwayError):
    """The queue did not take it; the database still has the rows."""

    service = "queue"


class RecogniserError(AwayError):
    """The recogniser did not give an answer."""

    service = "face_recog"


class RecogniserUnavailableError(RecogniserError):
    """Nobody answers."""


class RecogniserTimeoutError(RecogniserError):
    """No answer within the deadline."""


class RecogniserBusyError(RecogniserError):
    """The queue is full, or it stops before this picture's turn."""


class RecogniserFailedError(RecogniserError):
    """The recogniser failed on this picture."""


class StoredFacesError(AwayError):
    """Stored faces could not be searched."""

    service = "people"


class StoredFacesAwayError(StoredFacesError):
    """Nobody can."""


class StoredFacesBusyError(StoredFacesError):
    """Too many searches wait already."""


class OtherEngineError(StoredFacesError):
    """They are of another engine than what is looked for; that one's are loaded soon."""
