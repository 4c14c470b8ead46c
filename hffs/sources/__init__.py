"""Where listings and bytes come from; ``base`` is the seam that all other rooms know."""
