use super::*;

/// The leaves and roots that Certificate Transparency's implementations share (RFC 6962).
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hex(text: &str) -> Hash {
    Hash::from_bytes(hex::decode(text).unwrap().try_into().unwrap())
}

fn leaves() -> Vec<Hash> {
    LEAVES.iter().map(|leaf| Hash::leaf(&hex::decode(leaf).unwrap())).collect()
}

fn edge(leaves: &[Hash]) -> Frontier {
    let mut edge = Frontier::default();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge
}

fn prove(mut proof: Proof, leaves: &[Hash], from: usize) -> Vec<Hash> {
    leaves[from..].iter().for_each(|leaf| proof.push(*leaf));
    proof.finish().unwrap()
}

/// MTH as RFC 9162 §2.1.1 writes it.
fn recursive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::empty(),
        [leaf] => *leaf,
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            Hash::node(recursive_root(&leaves[..k]), recursive_root(&leaves[k..]))
        }
    }
}

#[test]
fn roots_are_those_of_certificate_transparency() {
    for (size, root) in ROOTS.iter().enumerate() {
        assert_eq!(edge(&leaves()[..size]).root(), hex(root), "{size} leaves");
    }
}

#[test]
fn proofs_are_those_of_certificate_transparency() {
    let first = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ];
    let inclusion = Proof::inclusion(0, 8, &Frontier::default()).unwrap();
    assert_eq!(prove(inclusion, &leaves(), 0), first.map(hex));
    let six_to_eight = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ];
    let consistency = Proof::consistency(6, 8, &Frontier::default()).unwrap();
    assert_eq!(prove(consistency, &leaves(), 0), six_to_eight.map(hex));
    let two_to_five = [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ];
    let consistency = Proof::consistency(2, 5, &Frontier::default()).unwrap();
    assert_eq!(prove(consistency, &leaves()[..5], 0), two_to_five.map(hex));
}

#[test]
fn every_proof_of_every_small_tree_holds_with_any_part_of_the_tree_dropped() {
    let leaves: Vec<_> = (0_u8..34).map(|n| Hash::leaf(&[n])).collect();
    for size in 1..=leaves.len() {
        let tree = &leaves[..size];
        let root = edge(tree).root();
        assert_eq!(root, recursive_root(tree), "{size} leaves");
        for index in 0..size {
            for dropped in 0..=index {
                let proof = Proof::inclusion(index as u64, size as u64, &edge(&leaves[..dropped])).unwrap();
                let proof = prove(proof, tree, dropped);
                assert!(verify_inclusion(leaves[index], index as u64, size as u64, &proof, root));
                let other = leaves[(index + 1) % size];
                assert!(
                    size == 1 || !verify_inclusion(other, index as u64, size as u64, &proof, root),
                    "a proof of {index} in {size} passed for another leaf"
                );
            }
        }
        for old in 1..=size {
            let old_root = edge(&leaves[..old]).root();
            for dropped in 0..=old {
                let proof = Proof::consistency(old as u64, size as u64, &edge(&leaves[..dropped])).unwrap();
                let proof = prove(proof, tree, dropped);
                assert!(verify_consistency((old as u64, old_root), (size as u64, root), &proof));
                assert!(!verify_consistency((old as u64, Hash::empty()), (size as u64, root), &proof));
                let mut longer = proof;
                longer.push(root);
                assert!(!verify_consistency((old as u64, old_root), (size as u64, root), &longer));
            }
        }
    }
}

#[test]
fn a_proof_is_not_given_for_leaves_that_are_gone_or_not_there() {
    let edge = edge(&leaves());
    assert!(Proof::inclusion(7, 9, &edge).is_none());
    assert!(Proof::inclusion(9, 9, &edge).is_none());
    assert!(Proof::inclusion(8, 9, &edge).unwrap().finish().is_some_and(|p| p.len() == 1));
    assert!(Proof::consistency(7, 9, &edge).is_none());
    assert!(Proof::consistency(0, 9, &Frontier::default()).is_none());
    assert!(Proof::inclusion(0, 9, &Frontier::default()).unwrap().finish().is_none(), "no leaf was fed");
    assert!(Frontier::from_parts(3, vec![Hash::empty()]).is_none());
}
