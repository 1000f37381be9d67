"""Names of the text formats that rows come in."""

LIBSVM = "libsvm"
CRITEO = "criteo"
