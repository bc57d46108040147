"""An adaptive linear forecast with its uncertainty: river's Bayesian linear regression, with a state that is plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectors.contract import FloatArray

_ARRAYS = ("_ss_arr", "_ss_inv_arr", "_eta_arr")


class BayesForecast:
    """Forecast of one value from a few features, learned one reading at a time.

    Parameters
    ----------
    width : int
        Number of features.
    noise_sd : float
        Rough noise of the target; sets how fast the prior (each weight normal, mean 0, standard deviation 1) gives way.

    Notes
    -----
    Posterior precision ``P = I + sum x x' / s^2``, weights ``P^-1 sum x y / s^2``. The forecast's spread includes the uncertainty of the weights:
    where nothing like x was seen before (the first frost), the band is wide and a detector behind it stays silent. Exact rank-1 updates (Sherman
    and Morrison), no forgetting. Cost about 40 us to forecast and learn; state 2 x 64 + 8 doubles for up to 8 features.

    References
    ----------
    Bishop (2006), Pattern Recognition and Machine Learning, eq. 3.50 to 3.59. River: Montiel et al. (2021), JMLR 22(110).

    Examples
    --------
    >>> forecast = BayesForecast(2, 0.1)
    >>> for x in np.linspace(-1, 1, 50):
    ...     forecast.learn(np.array([1.0, x]), 2.0 + 0.5 * x)
    >>> mean, spread = forecast.predict(np.array([1.0, 0.0]))
    >>> round(mean, 2), spread < 1.05, forecast.predict(np.array([1.0, 50.0]))[1] > 5
    (2.0, True, True)
    """

    def __init__(self, width: int, noise_sd: float) -> None:
        # here, not above: river brings 80 MB of memory with it, and a site without bridges and drains has no use for it
        from river.linear_model import BayesianLinearRegression

        self._names = tuple(range(width))
        self._noise_sd = noise_sd
        self._model: Any = BayesianLinearRegression(alpha=1.0, beta=1.0 / noise_sd**2)
        # river meets its features in the order of the first reading: fix it
        self._model._ensure_features(self._names)
        self._model._m_dirty = True

    def predict(self, x: FloatArray) -> tuple[float, float]:
        """Return the forecast, and its standard deviation as a multiple of the noise (1 when the weights are known)."""
        law = self._model.predict_one(dict(zip(self._names, x.tolist(), strict=True)), with_dist=True)
        return float(law.mu), float(law.sigma) / self._noise_sd

    def learn(self, x: FloatArray, y: float) -> None:
        """Take one reading in."""
        self._model.learn_one(dict(zip(self._names, x.tolist(), strict=True)), y)

    def state(self) -> dict[str, object]:
        """Return river's accumulators."""
        return {name: np.ascontiguousarray(getattr(self._model, name)) for name in _ARRAYS}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in _ARRAYS:
            setattr(self._model, name, np.asfortranarray(state[name]) if name == "_ss_inv_arr" else state[name])
        self._model._m_dirty = True
