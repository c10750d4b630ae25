import pytest
import numpy as np
from mckean import _core
@pytest.fixture(params=_core.simd_levels())
def simd_level(request):
    before=_core.simd_level(); _core.set_simd_level(request.param); yield request.param; _core.set_simd_level(before)
class NP:
    name='numpy'
    is_array=staticmethod(lambda x: isinstance(x,np.ndarray)); to_numpy=staticmethod(np.asarray); asarray=staticmethod(np.asarray)
@pytest.fixture
def xp(): return NP
