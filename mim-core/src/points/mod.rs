//! Point clouds: groups on several levels, masks passed down through the levels, and depth maps.

mod bicubic;
mod depth;
mod groups;
mod masks;
mod render;

pub use depth::{DepthMaps, DepthMapsConfig, VIEWS};
pub use groups::{PointLevel, PointLevelConfig, PointLevels};
pub use masks::pass_down;
pub use render::{draw_points, frame_of};
