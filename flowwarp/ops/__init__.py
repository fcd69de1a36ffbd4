"""The warp core: differentiable operators on images and flow fields."""
