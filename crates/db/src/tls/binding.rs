//! What binds a login to the TLS session that it is made in (`tls-server-end-point`, RFC 5929): the digest of the server's
//! certificate, by which a server finds out that its client was let in somewhere else. It reads of a certificate who signed it how,
//! and trusts nothing: `tls` has seen to that. Called by `handshake`.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// 1.2.840.113549.1.1, of whose members the last number says the digest.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4, with SHA-1 as its first member.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 1.2.840.10045.4.3.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];

/// The digest of a certificate in DER, by the function that its signature was made with, or SHA-256 where that is weaker. None where the
/// algorithm names no such function (Ed25519, RSASSA-PSS): servers know of none either, or differ by their version.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    let (member, family) = algorithm.split_last()?;
    let digest = match (family, *member) {
        // MD5, SHA-1, SHA-256.
        (RSA, 4 | 5 | 11) | (ECDSA, 1) | (ECDSA_SHA2, 2) => Sha256::digest(certificate).to_vec(),
        (RSA, 12) | (ECDSA_SHA2, 3) => Sha384::digest(certificate).to_vec(),
        (RSA, 13) | (ECDSA_SHA2, 4) => Sha512::digest(certificate).to_vec(),
        (RSA, 14) | (ECDSA_SHA2, 1) => Sha224::digest(certificate).to_vec(),
        _ => return None,
    };
    Some(digest)
}

/// Its object identifier.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (parts, _) = value(SEQUENCE, certificate)?;
    let (_signed, behind) = value(SEQUENCE, parts)?;
    let (algorithm, _) = value(SEQUENCE, behind)?;
    Some(value(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// What the first value holds, if it is of this tag, and what comes behind it.
fn value(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else { return None };
    if *found != tag {
        return None;
    }
    // Up to 127 stands for itself; above, it says how many bytes follow that hold the length.
    let Some(length_bytes) = length.checked_sub(0x80) else {
        return rest.split_at_checked(usize::from(*length));
    };
    let (length, rest) = rest.split_at_checked(usize::from(length_bytes))?;
    let length = length.iter().try_fold(0_usize, |length, byte| {
        length.checked_mul(256).and_then(|length| length.checked_add(usize::from(*byte)))
    })?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        let header = match *length {
            [] => vec![tag, 0],
            [short] if short < 0x80 => vec![tag, short],
            _ => [&[tag, 0x80 + u8::try_from(length.len()).expect("a few bytes")], &*length].concat(),
        };
        [header, content.to_vec()].concat()
    }

    /// As much of a certificate as says how it was signed.
    fn certificate(algorithm: &[u8], signed_bytes: usize) -> Vec<u8> {
        let signed = coded(SEQUENCE, &vec![1; signed_bytes]);
        let algorithm = coded(SEQUENCE, &coded(OBJECT_IDENTIFIER, algorithm));
        coded(SEQUENCE, &[signed, algorithm, coded(0x03, &[0; 9])].concat())
    }

    fn check(family: &[u8], member: u8, digest: impl Fn(&[u8]) -> Vec<u8>) {
        // Lengths of one byte, of two and of three.
        for signed_bytes in [0, 5, 0x7f, 0x80, 0xff, 0x100, 900, 0x1_0000] {
            let certificate = certificate(&[family, &[member]].concat(), signed_bytes);
            assert_eq!(end_point(&certificate), Some(digest(&certificate)), "{family:?} {member}");
        }
    }

    #[test]
    fn digest_is_that_of_the_signature_and_never_a_weak_one() {
        for (family, member) in [(RSA, 4), (RSA, 5), (RSA, 11), (ECDSA, 1), (ECDSA_SHA2, 2)] {
            check(family, member, |certificate| Sha256::digest(certificate).to_vec());
        }
        for (family, member) in [(RSA, 12), (ECDSA_SHA2, 3)] {
            check(family, member, |certificate| Sha384::digest(certificate).to_vec());
        }
        for (family, member) in [(RSA, 13), (ECDSA_SHA2, 4)] {
            check(family, member, |certificate| Sha512::digest(certificate).to_vec());
        }
        for (family, member) in [(RSA, 14), (ECDSA_SHA2, 1)] {
            check(family, member, |certificate| Sha224::digest(certificate).to_vec());
        }
    }

    #[test]
    fn what_names_no_digest_binds_nothing() {
        let ed25519: &[u8] = &[0x2b, 0x65, 0x70];
        let pss = [RSA, &[10]].concat();
        for algorithm in [ed25519, &*pss, &[]] {
            assert_eq!(end_point(&certificate(algorithm, 300)), None, "{algorithm:?}");
        }
    }

    #[test]
    fn what_is_cut_short_binds_nothing() {
        let whole = certificate(&[RSA, &[11]].concat(), 300);
        for bytes in 0..whole.len() {
            assert_eq!(end_point(&whole[..bytes]), None, "{bytes}");
        }
        assert_eq!(end_point(&[SEQUENCE, 0xff, 0xff, 0xff]), None);
    }
}
