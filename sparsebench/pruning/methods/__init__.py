"""One file a method. The folder conf/prune is the list of them."""
