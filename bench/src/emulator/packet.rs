//! What the emulator reads in a packet: whether it is IPv4, and whether it asks for a new TCP connection.

/// What a packet is, as far as a link cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Not IPv4, or too short to be: the emulated link does not carry it.
    Foreign,
    /// A TCP SYN without ACK: somebody dials.
    Dial,
    /// Any other IPv4 packet.
    Other,
}

/// Classifies one packet as it comes from a TUN device (no link header).
pub(crate) fn classify(packet: &[u8]) -> Packet {
    const TCP: u8 = 6;
    const FLAGS_OFFSET: usize = 13;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return Packet::Foreign;
    }
    let header = usize::from(packet[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
    if packet[9] != TCP || fragment_offset != 0 {
        return Packet::Other;
    }
    match packet.get(header + FLAGS_OFFSET) {
        Some(flags) if flags & (SYN | ACK) == SYN => Packet::Dial,
        Some(_) => Packet::Other,
        // A first fragment without the flags: what a packet filter drops too, or the rule could be walked around.
        None => Packet::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20 + 13] = flags;
        packet
    }

    #[test]
    fn only_a_syn_without_ack_is_a_dial() {
        assert_eq!(classify(&tcp(0x02)), Packet::Dial);
        assert_eq!(classify(&tcp(0x02 | 0x40 | 0x80)), Packet::Dial, "with ECN bits");
        assert_eq!(classify(&tcp(0x12)), Packet::Other, "SYN-ACK");
        assert_eq!(classify(&tcp(0x10)), Packet::Other, "ACK");
        assert_eq!(classify(&tcp(0x04)), Packet::Other, "RST");
    }

    #[test]
    fn the_flags_are_found_behind_ip_options() {
        let mut packet = vec![0; 48];
        packet[0] = 0x47;
        packet[9] = 6;
        packet[28 + 13] = 0x02;
        assert_eq!(classify(&packet), Packet::Dial);
    }

    #[test]
    fn later_fragments_and_other_protocols_are_no_dials() {
        let mut fragment = tcp(0x02);
        fragment[7] = 1;
        assert_eq!(classify(&fragment), Packet::Other);
        let mut udp = tcp(0x02);
        udp[9] = 17;
        assert_eq!(classify(&udp), Packet::Other);
    }

    #[test]
    fn what_is_not_ipv4_or_is_cut_short_is_foreign() {
        let mut v6 = tcp(0x02);
        v6[0] = 0x60;
        assert_eq!(classify(&v6), Packet::Foreign);
        assert_eq!(classify(&[]), Packet::Foreign);
        assert_eq!(classify(&tcp(0x02)[..19]), Packet::Foreign);
        assert_eq!(classify(&tcp(0x02)[..30]), Packet::Foreign, "TCP without its flags");
    }
}
