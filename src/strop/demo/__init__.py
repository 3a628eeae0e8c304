"""A small trained network and its 10,000 labelled test images, to try strop on."""
