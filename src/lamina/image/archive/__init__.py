"""Images as files: docker-archive, oci-archive, OCI layout directories, and flat root file systems.

members    what is in an archive or a directory, by name, readable in any order
reading    which images that is: their documents, the layers they need
load       unpack these into the store
save       write images, streamed
flat       an image of one layer from a tar archive or a directory of files
"""
