// Package pfloglayer registers OpenBSD's pflog header as a layer of gopacket, for
// programs that decode what package capture reads with gopacket's own layers. (The PFLog
// layer of gopacket/layers takes ids in the wrong byte order and lacks the addresses.)
package pfloglayer

import (
	"bytes"
	"errors"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.org/threatstopd/capture"
)

// LayerType is the type of [Layer]. Its number is outside the ranges that gopacket
// reserves for itself and for well-known applications.
var LayerType = gopacket.RegisterLayerType(0x70666c67, gopacket.LayerTypeMetadata{
	Name:    "OpenBSD pflog",
	Decoder: gopacket.DecodeFunc(decode),
})

// A Layer is a pflog header as a layer, for gopacket.NewPacket (as LayerType) and for a
// gopacket.DecodingLayerParser.
type Layer struct {
	layers.BaseLayer
	capture.Header
}

var (
	_ gopacket.Layer         = (*Layer)(nil)
	_ gopacket.DecodingLayer = (*Layer)(nil)
)

// LayerType returns LayerType.
func (l *Layer) LayerType() gopacket.LayerType { return LayerType }

// CanDecode returns LayerType.
func (l *Layer) CanDecode() gopacket.LayerClass { return LayerType }

// NextLayerType returns the layer for the header's address family,
// gopacket.LayerTypePayload for an unknown one.
func (l *Layer) NextLayerType() gopacket.LayerType {
	switch l.AF {
	case capture.AFInet:
		return layers.LayerTypeIPv4
	case capture.AFInet6:
		return layers.LayerTypeIPv6
	}
	return gopacket.LayerTypePayload
}

// DecodeFromBytes decodes the header at the beginning of data. The error is that of
// capture.Header's Decode.
func (l *Layer) DecodeFromBytes(data []byte, df gopacket.DecodeFeedback) error {
	n, err := l.Header.Decode(data)
	if err != nil {
		if errors.Is(err, capture.ErrShort) {
			df.SetTruncated()
		}
		return err
	}
	l.BaseLayer = layers.BaseLayer{Contents: data[:n:n], Payload: data[n:]}
	return nil
}

func decode(data []byte, p gopacket.PacketBuilder) error {
	l := new(Layer)
	if err := l.DecodeFromBytes(data, p); err != nil {
		return err
	}
	p.AddLayer(l)
	return p.NextDecoder(l.NextLayerType())
}

// A Copier returns the packets of a source with data of their own, as
// gopacket.NewPacketSource requires.
type Copier struct {
	gopacket.ZeroCopyPacketDataSource
}

// ReadPacketData returns the next packet of the source.
func (c Copier) ReadPacketData() ([]byte, gopacket.CaptureInfo, error) {
	data, ci, err := c.ZeroCopyReadPacketData()
	return bytes.Clone(data), ci, err
}
