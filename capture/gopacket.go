package capture

import (
	"errors"
	"io"

	"github.com/google/gopacket"
)

// LayerTypePflog is OpenBSD's pflog header. Its number is outside the ranges that
// gopacket keeps for itself and for well-known applications. (The PFLog layer of
// gopacket/layers is another thing: it takes ids in the wrong byte order and does
// not know the addresses.)
var LayerTypePflog = gopacket.RegisterLayerType(0x70666c67, gopacket.LayerTypeMetadata{
	Name:    "OpenBSD pflog",
	Decoder: gopacket.DecodeFunc(decodePflog),
})

// What layers.LayerTypeIPv4 and layers.LayerTypeIPv6 are registered as. They are
// written as numbers so that whoever uses this package without gopacket need not
// link gopacket/layers.
const (
	layerTypeIPv4 gopacket.LayerType = 20
	layerTypeIPv6 gopacket.LayerType = 21
)

// PflogLayer is a pflog header as a layer of gopacket, for NewPacket (as
// LayerTypePflog) and for a DecodingLayerParser.
type PflogLayer struct {
	Header
	Contents, Payload []byte

	// IPv4 and IPv6 are the layers that follow; zero is those of
	// gopacket/layers, which the program must then link.
	IPv4, IPv6 gopacket.LayerType
}

var (
	_ gopacket.Layer         = (*PflogLayer)(nil)
	_ gopacket.DecodingLayer = (*PflogLayer)(nil)
)

// LayerType returns LayerTypePflog.
func (l *PflogLayer) LayerType() gopacket.LayerType { return LayerTypePflog }

// LayerContents returns the header's bytes.
func (l *PflogLayer) LayerContents() []byte { return l.Contents }

// LayerPayload returns what was captured of the packet.
func (l *PflogLayer) LayerPayload() []byte { return l.Payload }

// CanDecode returns LayerTypePflog.
func (l *PflogLayer) CanDecode() gopacket.LayerClass { return LayerTypePflog }

// NextLayerType returns the layer for the header's address family,
// gopacket.LayerTypePayload for an unknown one.
func (l *PflogLayer) NextLayerType() gopacket.LayerType {
	switch {
	case l.AF == AFInet && l.IPv4 != 0:
		return l.IPv4
	case l.AF == AFInet:
		return layerTypeIPv4
	case l.AF == AFInet6 && l.IPv6 != 0:
		return l.IPv6
	case l.AF == AFInet6:
		return layerTypeIPv6
	}
	return gopacket.LayerTypePayload
}

// DecodeFromBytes decodes the header at the beginning of data. The error is that of
// [Header.Decode].
func (l *PflogLayer) DecodeFromBytes(data []byte, df gopacket.DecodeFeedback) error {
	n, err := l.Header.Decode(data)
	if err != nil {
		if errors.Is(err, ErrShort) {
			df.SetTruncated()
		}
		return err
	}
	l.Contents, l.Payload = data[:n:n], data[n:]
	return nil
}

func decodePflog(data []byte, p gopacket.PacketBuilder) error {
	l := new(PflogLayer)
	if err := l.DecodeFromBytes(data, p); err != nil {
		return err
	}
	p.AddLayer(l)
	return p.NextDecoder(l.NextLayerType())
}

// PacketData gives the packets of a [Source] one by one, as gopacket wants them.
type PacketData struct {
	src   Source
	batch *Batch
}

var (
	_ gopacket.PacketDataSource         = (*PacketData)(nil)
	_ gopacket.ZeroCopyPacketDataSource = (*PacketData)(nil)
	_ gopacket.PacketDataSource         = (*FileReader)(nil)
	_ gopacket.ZeroCopyPacketDataSource = (*FileReader)(nil)
)

// NewPacketData returns src as a source of packets for gopacket. Nobody else may
// read from src meanwhile.
func NewPacketData(src Source) *PacketData {
	return &PacketData{src: src, batch: new(Batch)}
}

// ZeroCopyReadPacketData waits for the next packet; its data is valid until the next
// call. The error is io.EOF after the source was closed, else the source's.
func (d *PacketData) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	var r Record
	for !d.batch.Next(&r) {
		if err := d.batch.Err(); err != nil {
			d.batch.Reset(nil)
			return nil, gopacket.CaptureInfo{}, err
		}
		batch, err := d.src.Read()
		if errors.Is(err, ErrClosed) {
			err = io.EOF
		}
		if err != nil {
			return nil, gopacket.CaptureInfo{}, err
		}
		d.batch = batch
	}
	return r.Data, captureInfo(&r), nil
}

// ReadPacketData is ZeroCopyReadPacketData with data of the caller's own.
func (d *PacketData) ReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	return copied(d.ZeroCopyReadPacketData())
}

// ZeroCopyReadPacketData is Next for gopacket.
func (f *FileReader) ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	var r Record
	if err := f.Next(&r); err != nil {
		return nil, gopacket.CaptureInfo{}, err
	}
	return r.Data, captureInfo(&r), nil
}

// ReadPacketData is Next for gopacket, with data of the caller's own.
func (f *FileReader) ReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	return copied(f.ZeroCopyReadPacketData())
}

func captureInfo(r *Record) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{
		Timestamp:     r.Time,
		CaptureLength: len(r.Data),
		// gopacket takes less than the captured length for a mistake.
		Length: max(r.Length, len(r.Data)),
	}
}

func copied(data []byte, ci gopacket.CaptureInfo, err error) ([]byte, gopacket.CaptureInfo, error) {
	if err != nil {
		return nil, ci, err
	}
	return append([]byte(nil), data...), ci, nil
}
