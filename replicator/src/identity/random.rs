//! The operating system's random generator: the one place here where randomness comes from, beside the making of key pairs.

use proto::ids::VolumeId;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RandomError(#[from] getrandom::Error);

/// Fresh bytes: a volume key, a sealing salt, a token's secret.
pub fn bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A new volume's id: a UUID of version 4.
pub fn volume_id() -> Result<VolumeId, RandomError> {
    Ok(VolumeId(uuid::Builder::from_random_bytes(bytes()?).into_uuid().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(bytes::<32>().expect("random"), bytes::<32>().expect("random"));
        assert_ne!(volume_id().expect("random"), volume_id().expect("random"));
    }
}
