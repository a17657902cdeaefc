# The public vocabulary: read by editors and type checkers, and by `__init__.py`, which imports a name when it is used.

from .ablation.edits import edits as edits
from .ablation.optimal import Optimal as Optimal
from .ablation.sources import batch_src_ablations as batch_src_ablations
from .ablation.sources import src_ablations as src_ablations
from .ablation.surgery import prune as prune
from .ablation.types import AblationType as AblationType
from .ablation.values import gather as gather
from .ablation.weights import zero_weights as zero_weights
from .claims import check as check
from .claims import hypothesis as hypothesis
from .claims import metric as metric
from .data.pairs import PairLoader as PairLoader
from .data.pairs import Pairs as Pairs
from .graphs.heads import heads as heads
from .graphs.patch import patch_edges as patch_edges
from .graphs.residual import ResidualGraph as ResidualGraph
from .graphs.residual import residual_graph as residual_graph
from .graphs.scores import attribution_scores as attribution_scores
from .graphs.scores import exact_scores as exact_scores
from .graphs.scores import integrated_gradients as integrated_gradients
from .graphs.task import EdgeTask as EdgeTask
from .hooks import capture as capture
from .hooks import edit as edit
from .hooks import unchanged as unchanged
from .plotting.figures import show as show
from .plotting.table import show_table as show_table
from .runs import run as run
from .schedules.dopesheet import Dopesheet as Dopesheet
from .schedules.timeline import Timeline as Timeline
from .session import begin as begin
from .sites import Site as Site
from .sweeps.greedy import greedy as greedy
from .sweeps.metrics import accuracy as accuracy
from .sweeps.metrics import cross_entropy as cross_entropy
from .sweeps.metrics import divergence as divergence
from .sweeps.metrics import logit_difference as logit_difference
from .sweeps.predictors import attribute as attribute
from .sweeps.units import measure as measure
from .sweeps.units import sweep as sweep
from .training.ensemble import Ensemble as Ensemble
from .training.fit import fit as fit

__version__: str
