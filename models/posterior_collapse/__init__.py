"""When do latents of an auto-encoder say nothing?"""
