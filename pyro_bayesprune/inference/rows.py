"""Linear systems in the posterior precision of a layer, row by row.

The rows of a layer are its units, and they are taken as independent. The precision of row o is

    P_o = c_o A + diag(δ_o),

with A the second moment of the layer's inputs, c_o the Fisher information of the row's output and
δ_o the prior precisions. Every row has a mask of its own, so that no factorisation serves them all.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-9  # of conjugate gradients, relative to the first residual
STEPS = 1000
GRADIENT_STEPS = 80  # of conjugate gradients as a rule; decides which solver is the cheaper one


class Rows(NamedTuple):
    """The precision of a layer of n rows and k columns, float64.

    Args:
        inputs: A (k, k).
        scale: c (n,), not negative.
        delta: δ (n, k), positive.
    """

    inputs: Tensor
    scale: Tensor
    delta: Tensor

    def multiply(self, values: Tensor) -> Tensor:
        """Return P_o v_o for each row of ``values`` (n, k)."""
        return self.scale[:, None] * (values @ self.inputs) + self.delta * values

    def factor(self, row: int, columns: Tensor) -> Tensor:
        """Return the Cholesky factor of P_o for some of its columns."""
        precision = self.scale[row] * self.inputs[columns][:, columns]
        precision.diagonal().add_(self.delta[row, columns])
        return torch.linalg.cholesky(precision)

    def solve(self, keep: Tensor, right: Tensor, start: Tensor) -> Tensor:
        """Return x (n, k), zero where ``keep`` is False, with (P_o)_KK x_K = (right_o)_K.

        By a Cholesky factorisation of each row or by conjugate gradients for all rows together,
        whichever needs fewer operations.
        """
        n, k = keep.shape
        direct = keep.sum(1).double().pow(3).sum().item() / 3
        if direct <= 2.0 * GRADIENT_STEPS * n * k * k:
            return self._solve_directly(keep, right)
        return self._conjugate_gradients(keep, right, start)

    def _solve_directly(self, keep: Tensor, right: Tensor) -> Tensor:
        solution = torch.zeros_like(right)
        for row in keep.any(1).nonzero().flatten().tolist():
            columns = keep[row].nonzero().flatten()
            values = right[row, columns, None]
            solution[row, columns] = torch.cholesky_solve(values, self.factor(row, columns))[:, 0]
        return solution

    def _conjugate_gradients(self, keep: Tensor, right: Tensor, start: Tensor) -> Tensor:
        x = start * keep
        residual = (right - self.multiply(x)) * keep
        jacobi = self.scale[:, None] * self.inputs.diagonal() + self.delta
        direction = z = residual / jacobi
        size = first = (residual * z).sum(1, keepdim=True)
        for _ in range(STEPS):
            if bool((size <= TOLERANCE**2 * first).all()):
                return x
            image = self.multiply(direction) * keep
            step = _ratio(size, (direction * image).sum(1, keepdim=True))
            x, residual = x + step * direction, residual - step * image
            z, before = residual / jacobi, size
            size = (residual * z).sum(1, keepdim=True)
            direction = z + _ratio(size, before) * direction
        return self._solve_directly(keep, right)  # the iteration has not converged

    def log_determinant(self, keep: Tensor) -> float:
        """Return Σ_o ln|(P_o)_KK|."""
        if keep.all() and bool((self.delta == self.delta[0]).all()):
            delta = self.delta[0]
            scaled = self.inputs / torch.outer(delta, delta).sqrt()
            values = torch.outer(self.scale, torch.linalg.eigvalsh(scaled).clamp(min=0))
            return (values.log1p().sum() + len(keep) * delta.log().sum()).item()
        rows = keep.any(1).nonzero().flatten().tolist()
        factors = (self.factor(row, keep[row].nonzero().flatten()) for row in rows)
        return sum(2 * f.diagonal().log().sum().item() for f in factors)


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """One / other, and zero for rows that have converged."""
    return torch.where(other > 0, one / other.clamp(min=torch.finfo(other.dtype).tiny), 0.0)
