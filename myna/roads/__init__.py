"""From what a person gives to a finished directory: a road for everything that can be made, and what measures it afterwards.

    from myna.roads.build import build
"""
