//! Which device the tensors live on, chosen at run time among those that were built in.

use burn::tensor::Device;
use thiserror::Error;

/// Why no device was opened.
#[derive(Debug, Error)]
#[error("no device `{name}` in this program (it has: {})", available().join(", "))]
pub struct DeviceError {
    name: String,
}

/// Names of the devices that this program was built with.
pub fn available() -> Vec<&'static str> {
    let mut names = vec!["cpu"];
    if cfg!(feature = "vulkan") {
        names.push("vulkan");
    }
    if cfg!(feature = "metal") {
        names.push("metal");
    }
    if cfg!(feature = "cuda") {
        names.push("cuda");
    }
    names
}

/// Opens a device by name.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        _ => Err(DeviceError { name: name.to_owned() }),
    }
}
