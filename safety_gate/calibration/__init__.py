"""How well the gate's figures tell safe adapters of one base from unsafe ones."""
