"""Numbers from masks and probability maps, and from many such numbers tables and pictures. Needs no torch."""
