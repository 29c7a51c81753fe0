"""The tape as a numbered listing: what was computed, from what, by which formula.

>>> import numpy as np, tinygan as tg
>>> from tinygan.study import listing
>>> x = tg.track(np.array([1.0, 2.0]), "x")
>>> y = tg.ops.sum(tg.ops.tanh(x))
>>> print(listing({"y": y, "∇y": tg.grad(y, x)}))
y = %3
  %1  x  leaf                   float64[2]
  %2     tanh(x)                float64[2]  y = tanh a
  %3     sum(%2)                float64[]   y = Σ a
  2 calls, 3 elements, 24 bytes; 1 leaf
∇y = %6
  %4     square(%2)             float64[2]  y = a²
  %5     subtract(1, %4)        float64[2]  y = a − b
  %6     multiply([1…][2], %5)  float64[2]  y = a·b
  3 calls, 6 elements, 48 bytes
"""
