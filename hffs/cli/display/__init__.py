"""What commands print: units, lines laid out for a terminal or a pipe, tables, and the live displays drawn of them."""
