"""Which problems and which texts are learnt: rules over columns of Arrow and numpy, without Ray."""
