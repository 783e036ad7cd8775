//go:build !linux

package service

import "context"

// Why cannot be asked here.
func Why(context.Context) Ending { return Stopped }
